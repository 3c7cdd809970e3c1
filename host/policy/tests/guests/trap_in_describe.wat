;; The gate must refuse it: `describe` traps.
;; part DESCRIBE
(unreachable)
