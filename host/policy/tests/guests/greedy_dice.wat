;; For `boom` it asks for 64 MiB of randomness in one call, which the host would make byte by byte while no epoch ends it.
;; part IMPORTS
  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
;; part OUTSIDE
  @IMPORTS@
  (component $roller
    @IMPORTS@
    (core module $store
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $store (instantiate $store))
    (alias core export $store "memory" (core memory $memory))
    (alias core export $store "cabi_realloc" (core func $realloc))
    (alias export $random "get-random-bytes" (func $bytes))
    (core func $bytes' (canon lower (func $bytes) (memory $memory) (realloc $realloc)))
    (core module $m
      (import "w" "bytes" (func $bytes (param i64 i32)))
      (func (export "few") (call $bytes (i64.const 1024) (i32.const 0)))
      (func (export "many") (call $bytes (i64.const 67108864) (i32.const 0))))
    (core instance $i (instantiate $m (with "w" (instance (export "bytes" (func $bytes'))))))
    (func (export "few") (canon lift (core func $i "few")))
    (func (export "many") (canon lift (core func $i "many"))))
  (instance $roller (instantiate $roller (with "wasi:random/random@0.2.0" (instance $random))))
;; part INSIDE
    (import "few" (func $few))
    (import "many" (func $many))
    (core func $few' (canon lower (func $few)))
    (core func $many' (canon lower (func $many)))
;; part CORE_IMPORTS
      (import "outside" "few" (func $few))
      (import "outside" "many" (func $many))
;; part CORE_WITH
      (with "outside" (instance (export "few" (func $few')) (export "many" (func $many'))))
;; part WITH
    (with "few" (func $roller "few")) (with "many" (func $roller "many"))
;; part ALWAYS
        (call $few)
;; part BOOM
(func $boom (param $args i32) (result i32) (call $many) (unreachable))
