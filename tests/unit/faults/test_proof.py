"""The published report says what the ledger says."""

import ast
import sys

from tests.faults import proof

SNIPPET = """
class A(B):
    x: int = None
    def f(self, *, a, b=None) -> "A":
        match a:
            case None:
                return f"{a!r:>{b}} {a[1:2]}" "and more" f"{b}"
        with b as c, d():
            return {**a, 1: lambda: ...}
"""
"""Syntax that Python versions dump differently: empty lists, type parameters, f-strings, None."""

DUMPED = (
    "Module(body=[ClassDef(name='A', bases=[Name(id='B', ctx=Load())], keywords=[], "
    "body=[AnnAssign(target=Name(id='x', ctx=Store()), annotation=Name(id='int', ctx=Load()), "
    "value=Constant(value=None), simple=1), FunctionDef(name='f', args=arguments(posonlyargs=[], "
    "args=[arg(arg='self')], kwonlyargs=[arg(arg='a'), arg(arg='b')], kw_defaults=[None, "
    "Constant(value=None)], defaults=[]), body=[Match(subject=Name(id='a', ctx=Load()), "
    "cases=[match_case(pattern=MatchSingleton(value=None), "
    "body=[Return(value=JoinedStr(values=[FormattedValue(value=Name(id='a', ctx=Load()), conversion=114, "
    "format_spec=JoinedStr(values=[Constant(value='>'), FormattedValue(value=Name(id='b', ctx=Load()), "
    "conversion=-1)])), Constant(value=' '), FormattedValue(value=Subscript(value=Name(id='a', "
    "ctx=Load()), slice=Slice(lower=Constant(value=1), upper=Constant(value=2)), ctx=Load()), "
    "conversion=-1), Constant(value='and more'), FormattedValue(value=Name(id='b', ctx=Load()), "
    "conversion=-1)]))])]), With(items=[withitem(context_expr=Name(id='b', ctx=Load()), "
    "optional_vars=Name(id='c', ctx=Store())), withitem(context_expr=Call(func=Name(id='d', ctx=Load()), "
    "args=[], keywords=[]))], body=[Return(value=Dict(keys=[None, Constant(value=1)], "
    "values=[Name(id='a', ctx=Load()), Lambda(args=arguments(posonlyargs=[], args=[], kwonlyargs=[], "
    "kw_defaults=[], defaults=[]), body=Constant(value=Ellipsis))]))])], decorator_list=[], "
    "returns=Constant(value='A'))], decorator_list=[])], type_ignores=[])"
)


def test_the_page_shows_the_figures_of_the_ledger() -> None:
    page = proof.REPORT.read_text()
    assert f"{proof.BEGIN}{proof.figures(proof.read())}\n{proof.END}" in page


def test_no_storm_of_the_present_protocol_had_an_anomaly_and_the_page_tells_of_every_earlier_one() -> None:
    lines, page = proof.read(), proof.REPORT.read_text()
    for line in [line for line in lines if line["anomalies"]]:
        assert line["protocol"] != lines[-1]["protocol"], line["anomalies"]
        assert f"*{line['scenario']}* with SEED={line['seed']}" in page


def test_the_published_proof_is_one_of_the_present_code() -> None:
    """Another commit of the protocol needs another publication: `make faults PUBLISH=1`."""
    assert proof.read()[-1]["protocol"] == proof.protocol()


def test_the_hash_is_the_same_on_every_python() -> None:
    """It is that of Python 3.11, which wrote the ledger's first lines."""
    dumped = proof.dump(ast.parse(SNIPPET))

    assert dumped == DUMPED
    if sys.version_info < (3, 12):
        assert dumped == ast.dump(ast.parse(SNIPPET))
