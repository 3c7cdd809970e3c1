;; The gate must refuse it: `plugin` is of one version of the contract and `access` of another.
;; part ACCESS_VERSION
0.2.0
