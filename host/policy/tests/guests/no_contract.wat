;; The gate must refuse it: a component that has nothing to do with policies.
;; whole
(component)
