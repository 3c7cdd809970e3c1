;; The gate must refuse it: instantiating it never ends.
;; part START
(func $start (loop $again (br $again)))
(start $start)
