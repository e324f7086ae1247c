"""The store as a registry: OCI distribution-spec 1.1 over HTTP. Needs the extra ``server``."""
