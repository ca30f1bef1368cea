"""A small in-memory Kubernetes API over HTTPS, for development, demonstrations and tests only.

It decides what a real kube-apiserver with RBAC would decide (who may do what, what is valid, who conflicts), runs
nothing, and forgets everything when it stops. Whoever holds a certificate of its client CA may call it; a cluster
that matters is never replaced by it.
"""
