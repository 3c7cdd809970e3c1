;; Denies with a reason of 257 bytes: one too many.
;; part BOOM
(func $boom (param $args i32) (result i32)
  (memory.fill (i32.const 8192) (i32.const 97) (i32.const 257))
  (i32.store (i32.const 0) (i32.const 1)) (i32.store (i32.const 4) (i32.const 0))
  (i32.store (i32.const 8) (i32.const 8192)) (i32.store (i32.const 12) (i32.const 257)) (i32.const 0))
