;; Grows a table until it may not, then traps.
;; part BOOM
(table $table 1 funcref)
(func $boom (param $args i32) (result i32)
  (loop $more (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))))
  (unreachable))
