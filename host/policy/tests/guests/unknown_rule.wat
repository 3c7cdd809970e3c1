;; Allows by a rule that it does not have.
;; part BOOM
(func $boom (param $args i32) (result i32)
  (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 99)) (i32.const 0))
