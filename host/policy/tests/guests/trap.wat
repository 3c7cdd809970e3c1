;; Traps.
;; part BOOM
(func $boom (param $args i32) (result i32) (unreachable))
