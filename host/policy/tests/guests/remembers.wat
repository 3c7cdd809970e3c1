;; The gate must refuse it: from the second call on it denies.
;; part BOOM
(func $boom (param $args i32) (result i32) (unreachable))
;; part ALWAYS
(if (i32.gt_u (global.get $calls) (i32.const 1)) (then
  (i32.store (i32.const 0) (i32.const 1)) (i32.store (i32.const 4) (i32.const 0))
  (i32.store (i32.const 8) (i32.const 0)) (i32.store (i32.const 12) (i32.const 0))
  (return (i32.const 0))))
