"""mcp_core serves MCP and REST clients and is the only service that talks to Kubernetes: authenticate, decide,
record, execute, record, answer. Clients call it over HTTPS; no other service calls it."""
