;; No fault: allows everything by rule 0.
;; part BOOM
(func $boom (param $args i32) (result i32)
  (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 0)) (i32.const 0))
