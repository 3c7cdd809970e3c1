;; The gate must refuse it: `configure` never ends.
;; part CONFIGURE
(loop $again (br $again))
