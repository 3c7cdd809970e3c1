;; The gate must refuse it: its schema is none.
;; part SCHEMA
{
