"""What tokens cost by the list, for agents that tell tokens but no money. Works offline; the library is imported when first asked."""

from __future__ import annotations

import functools
import importlib.util

from overnight.proposers.reports import Report

LIBRARY = "genai_prices"
INSTALL = "pip install 'overnight[prices]'"


def known() -> bool:
    """Whether the list of prices is installed."""
    return importlib.util.find_spec(LIBRARY) is not None


@functools.lru_cache(64)
def _rate(model: str) -> str:
    """The name by which the list knows the model, or an empty string: as it is, or without the provider before its slash."""
    from genai_prices import Usage, calc_price

    for name in dict.fromkeys((model, model.rpartition("/")[2])):
        try:
            calc_price(Usage(input_tokens=1, output_tokens=1), model_ref=name)
        except LookupError:
            continue
        return name
    return ""


def estimated(report: Report, model: str) -> float:
    """US dollars for the tokens of a report by the list price of its model; 0 where model or list is not known."""
    if not model or not (report.tokens_read or report.tokens_written) or not known():
        return 0.0
    name = _rate(model)
    if not name:
        return 0.0
    from genai_prices import Usage, calc_price

    cached = min(report.tokens_cached, report.tokens_read)
    usage = Usage(input_tokens=report.tokens_read, cache_read_tokens=cached, output_tokens=report.tokens_written)
    return float(calc_price(usage, model_ref=name).total_price)
