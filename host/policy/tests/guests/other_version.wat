;; The gate must refuse it: it keeps a contract that this gateway does not know.
;; part VERSION
9.9.9
