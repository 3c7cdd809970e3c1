;; The gate must refuse it: `describe` never ends.
;; part DESCRIBE
(loop $again (br $again))
