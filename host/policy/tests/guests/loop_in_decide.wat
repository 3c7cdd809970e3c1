;; Loops for ever.
;; part BOOM
(func $boom (param $args i32) (result i32) (loop $again (br $again)) (unreachable))
