"""Endpoints that are servers: OCI distribution-spec 1.1 over HTTP. Knows no store."""
