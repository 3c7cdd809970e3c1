;; Calls itself for ever.
;; part BOOM
(func $boom (param $args i32) (result i32) (i32.add (call $boom (local.get $args)) (i32.const 1)))
