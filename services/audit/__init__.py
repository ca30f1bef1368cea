"""The audit service: what happened, durable before anybody may act or answer on it.

It takes events from authn, authz, mcp-core and other platform services, each of which may write only its
own types (R22), and acknowledges an event when it is fsynced in the store and a leaf of a signed Merkle
tree (RFC 6962). Operators read it with a certificate and a principal token that policy allows
``kubegate:audit:read`` (R15); ``kubegate audit verify`` proves, without this service, that nothing was
changed.
"""
