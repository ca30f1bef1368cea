"""authn decides who a caller is. It turns a credential (API key, access token, password) into a principal
and a principal token that authz and audit verify, and keeps the credentials. The core and platform services
ask it, operators administer it; each decision is durable in audit before the answer leaves (R18)."""
