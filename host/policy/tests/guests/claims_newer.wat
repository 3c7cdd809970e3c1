;; The gate must refuse it: it says that it keeps contract 0.2.0 and has the types of 0.1.0.
;; part VERSION
0.2.0
