"""What published cards import: what an audit is asked for."""

from genaf_hf.pipelines.audit_arguments import AuditArguments

__all__ = ["AuditArguments"]
