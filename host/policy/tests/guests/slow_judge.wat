;; No fault, but judging takes its time: some milliseconds a call.
;; part JUDGE
(local.set $n (i32.const 10000000))
(loop $more
  (local.set $n (i32.sub (local.get $n) (i32.const 1)))
  (br_if $more (local.get $n)))
