;; Looks for files, variables, arguments, time and randomness behind the imports that are let through, and traps if it
;; finds any; for `boom` it would wait for an hour.
;; part IMPORTS
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $pollable (eq $outer)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:clocks/wall-clock@0.2.0" (instance $wall
    (type $datetime' (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $datetime')))
    (export "now" (func (result $datetime)))))
  (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))
    (export "get-arguments" (func (result (list string))))))
  (import "wasi:filesystem/types@0.2.0" (instance $files (export "descriptor" (type (sub resource)))))
  (alias export $files "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $descriptor (type $outer))
    (export "descriptor" (type $descriptor (eq $outer)))
    (export "get-directories" (func (result (list (tuple (own $descriptor) string)))))))
;; part OUTSIDE
  @IMPORTS@
  (component $looker
    @IMPORTS@
    (core module $store
      (memory (export "memory") 1)
      (global $next (mut i32) (i32.const 1024))
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
        (global.set $next (i32.add (local.get $at) (local.get 3)))
        (local.get $at)))
    (core instance $store (instantiate $store))
    (alias core export $store "memory" (core memory $memory))
    (alias core export $store "cabi_realloc" (core func $realloc))
    (alias export $poll "[method]pollable.block" (func $block))
    (alias export $clock "now" (func $now))
    (alias export $clock "subscribe-duration" (func $subscribe))
    (alias export $wall "now" (func $date))
    (alias export $random "get-random-u64" (func $dice))
    (alias export $environment "get-environment" (func $variables))
    (alias export $environment "get-arguments" (func $arguments))
    (alias export $preopens "get-directories" (func $folders))
    (core func $block' (canon lower (func $block)))
    (core func $now' (canon lower (func $now)))
    (core func $subscribe' (canon lower (func $subscribe)))
    (core func $date' (canon lower (func $date) (memory $memory)))
    (core func $dice' (canon lower (func $dice)))
    (core func $variables' (canon lower (func $variables) (memory $memory) (realloc $realloc)))
    (core func $arguments' (canon lower (func $arguments) (memory $memory) (realloc $realloc)))
    (core func $folders' (canon lower (func $folders) (memory $memory) (realloc $realloc)))
    (core module $m
      (import "store" "memory" (memory 1))
      (import "w" "block" (func $block (param i32)))
      (import "w" "now" (func $now (result i64)))
      (import "w" "subscribe" (func $subscribe (param i64) (result i32)))
      (import "w" "date" (func $date (param i32)))
      (import "w" "dice" (func $dice (result i64)))
      (import "w" "variables" (func $variables (param i32)))
      (import "w" "arguments" (func $arguments (param i32)))
      (import "w" "folders" (func $folders (param i32)))
      (func $must (param i32) (if (i32.eqz (local.get 0)) (then (unreachable))))
      ;; Nothing there, time stands at zero, and the dice fall alike.
      (func (export "look")
        (call $variables (i32.const 0)) (call $must (i32.eqz (i32.load (i32.const 4))))
        (call $arguments (i32.const 0)) (call $must (i32.eqz (i32.load (i32.const 4))))
        (call $folders (i32.const 0)) (call $must (i32.eqz (i32.load (i32.const 4))))
        (call $date (i32.const 0)) (call $must (i64.eqz (i64.load (i32.const 0))))
        (call $must (i32.eqz (i32.load (i32.const 8))))
        (call $must (i64.eqz (call $now)))
        (call $must (i64.eq (call $dice) (call $dice))))
      (func (export "wait") (call $block (call $subscribe (i64.const 3600000000000)))))
    (core instance $i (instantiate $m
      (with "store" (instance $store))
      (with "w" (instance
        (export "block" (func $block')) (export "now" (func $now')) (export "subscribe" (func $subscribe'))
        (export "date" (func $date')) (export "dice" (func $dice')) (export "variables" (func $variables'))
        (export "arguments" (func $arguments')) (export "folders" (func $folders'))))))
    (func (export "look") (canon lift (core func $i "look")))
    (func (export "wait") (canon lift (core func $i "wait"))))
  (instance $looker (instantiate $looker
    (with "wasi:io/poll@0.2.0" (instance $poll))
    (with "wasi:clocks/monotonic-clock@0.2.0" (instance $clock))
    (with "wasi:clocks/wall-clock@0.2.0" (instance $wall))
    (with "wasi:random/random@0.2.0" (instance $random))
    (with "wasi:cli/environment@0.2.0" (instance $environment))
    (with "wasi:filesystem/types@0.2.0" (instance $files))
    (with "wasi:filesystem/preopens@0.2.0" (instance $preopens))))
;; part INSIDE
    (import "look" (func $look))
    (import "wait" (func $wait))
    (core func $look' (canon lower (func $look)))
    (core func $wait' (canon lower (func $wait)))
;; part CORE_IMPORTS
      (import "outside" "look" (func $look))
      (import "outside" "wait" (func $wait))
;; part CORE_WITH
      (with "outside" (instance (export "look" (func $look')) (export "wait" (func $wait'))))
;; part WITH
    (with "look" (func $looker "look")) (with "wait" (func $looker "wait"))
;; part ALWAYS
        (call $look)
;; part BOOM
(func $boom (param $args i32) (result i32) (call $wait) (unreachable))
