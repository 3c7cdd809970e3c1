;; Denies with a reason of two megabytes.
;; part BOOM
(func $boom (param $args i32) (result i32)
  (drop (memory.grow (i32.const 40)))
  (i32.store (i32.const 0) (i32.const 1)) (i32.store (i32.const 4) (i32.const 0))
  (i32.store (i32.const 8) (i32.const 65536)) (i32.store (i32.const 12) (i32.const 2000000)) (i32.const 0))
