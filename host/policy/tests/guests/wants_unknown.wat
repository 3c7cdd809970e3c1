;; The gate must refuse it: it imports something nobody has.
;; whole
(component
  (import "acme:secrets/keys@1.0.0" (instance (export "get" (func (result string))))))
