"""What published cards import: an audit of a classifier, by values or as `AuditArguments` ask for it."""

from functools import wraps

from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.pipelines.audit import audit as audit_of_values
from genaf_hf.pipelines.audit import audit_again
from genaf_hf.pipelines.audit_arguments import AuditArguments, audit_as_asked

__all__ = ["audit", "audit_again"]


@wraps(audit_of_values)
def audit(model, *given, **settings) -> RobustnessReport:
    if isinstance(model, AuditArguments):
        return audit_as_asked(model)
    return audit_of_values(model, *given, **settings)
