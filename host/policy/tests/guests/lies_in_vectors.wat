;; The gate must refuse it: it denies what its vector says it allows.
;; part BOOM
(func $boom (param $args i32) (result i32) (unreachable))
;; part ALWAYS
(i32.store (i32.const 0) (i32.const 1)) (i32.store (i32.const 4) (i32.const 0))
(i32.store (i32.const 8) (i32.const 0)) (i32.store (i32.const 12) (i32.const 0))
(return (i32.const 0))
