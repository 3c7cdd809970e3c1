;; The gate must refuse it: it imports sockets.
;; whole
(component
  (import "wasi:sockets/network@0.2.0" (instance (export "network" (type (sub resource))))))
