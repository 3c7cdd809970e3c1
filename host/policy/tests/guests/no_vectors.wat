;; The gate must refuse it: it has no tests.
;; part VECTORS
vector = []
