;; No fault: a session whose id has four bytes is denied by rule 0.
;; part BOOM
(data (i32.const 512) "no")
(func $boom (param $args i32) (result i32)
  (i32.store (i32.const 0) (i32.const 1)) (i32.store (i32.const 4) (i32.const 0))
  (i32.store (i32.const 8) (i32.const 512)) (i32.store (i32.const 12) (i32.const 2)) (i32.const 0))
