;; The gate must refuse it: a core module, not a component.
;; whole
(module (func (export "describe")))
