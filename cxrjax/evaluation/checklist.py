"""Two reporting guidelines, item by item: where the report answers, and what authors must write.

CLAIM 2024 (Tejani et al., Radiology: Artificial Intelligence 2024; 6(4): e240300) and TRIPOD+AI
(Collins et al., BMJ 2024; 385: e078378). The numbers are theirs, the words are ours and short: the
guidelines themselves say what each item asks. What is said to be in the report is in it; whether it
is enough is for the authors to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cxrjax.tables import table

AUTHORS = "to be written by the authors"

# (number, what is asked, sections of this report that answer it, whether authors must add to them).
# A section that a report has not is not named.
CLAIM = (
    ("1", "title or abstract names the kind of AI", (), True),
    ("2", "abstract: design, methods, results, conclusions", (), True),
    ("3", "background, intended use and role", (), True),
    ("4", "aims and hypotheses", (), True),
    ("5", "prospective or retrospective", (), True),
    ("6", "goal of the study", (), True),
    ("7", "sources of the data", ("first page",), True),
    ("8", "inclusion and exclusion of films", ("flow",), True),
    ("9", "preprocessing", ("training",), False),
    ("10", "selection of parts of the data", ("flow",), True),
    ("11", "de-identification", (), True),
    ("12", "missing data", ("table 1", "decisions"), True),
    ("13", "how films were acquired", ("table 1",), True),
    ("14", "definition of the reference standard", (), True),
    ("15", "why that reference standard", (), True),
    ("16", "who annotated", (), True),
    ("17", "annotation of the test set", (), True),
    ("18", "agreement between and within readers", (), True),
    ("19", "how films were assigned to the splits", ("first page", "flow"), True),
    ("20", "level at which splits are disjoint", ("first page",), False),
    ("21", "intended sample size", (), True),
    ("22", "the model in detail", ("training",), True),
    ("23", "software and versions", ("provenance",), False),
    ("24", "initial weights", ("training",), False),
    ("25", "training in detail", ("training",), False),
    ("26", "how the final model was chosen", ("training",), False),
    ("27", "ensembles", ("training",), True),
    ("28", "figures of performance", ("first page", "network"), False),
    ("29", "uncertainty and significance", ("first page", "network"), False),
    ("30", "robustness", ("subgroups", "probe"), True),
    ("31", "explainability", ("probe",), True),
    ("32", "evaluation on internal data", ("network",), False),
    ("33", "testing on external data", ("elsewhere",), True),
    ("34", "registration", (), True),
    ("35", "numbers included and excluded", ("flow",), False),
    ("36", "demographic and clinical characteristics by split", ("table 1",), True),
    ("37", "performance with uncertainty, on all splits", ("first page", "network"), False),
    ("38", "diagnostic performance and its precision", ("ranking", "decisions"), False),
    ("39", "failures", ("errors", "confusion"), True),
    ("40", "limitations", (), True),
    ("41", "implications for practice", (), True),
    ("42", "study protocol or further technical details", ("provenance",), True),
    ("43", "availability of software, model and data", ("provenance",), True),
    ("44", "funding", (), True),
)
TRIPOD = (
    ("1", "title: model, population, outcome", (), True),
    ("2", "abstract", (), True),
    ("3a", "healthcare context and why a model", (), True),
    ("3b", "target population, purpose, users", (), True),
    ("3c", "known health inequalities", (), True),
    ("4", "objectives", (), True),
    ("5a", "sources of data for training and for evaluation", ("first page",), True),
    ("5b", "dates", (), True),
    ("6a", "setting, number and place of centres", ("table 1",), True),
    ("6b", "eligibility", ("flow",), True),
    ("6c", "treatments", (), True),
    ("7", "preparation and quality of data", ("flow", "training"), True),
    ("8a", "outcome: definition and why", (), True),
    ("8b", "who assessed the outcome", (), True),
    ("8c", "blinding of the assessment", (), True),
    ("9a", "choice of predictors", (), True),
    ("9b", "definition of predictors: the films", ("training",), True),
    ("9c", "who assessed predictors", (), True),
    ("10", "sample size", ("flow", "ranking"), True),
    ("11", "missing data", ("table 1", "decisions"), True),
    ("12a", "how the data were used", ("first page", "flow"), False),
    ("12b", "handling of predictors", ("training",), False),
    ("12c", "type of model, building, internal validation", ("training",), True),
    ("12d", "heterogeneity between clusters", ("subgroups",), True),
    ("12e", "figures and plots of performance", ("network",), False),
    ("12f", "model updating", ("training", "calibration"), True),
    ("12g", "how predictions were calculated", ("training", "provenance"), False),
    ("13", "class imbalance", ("training", "calibration"), True),
    ("14", "fairness", ("subgroups",), True),
    ("15", "output of the model, thresholds", ("decisions",), False),
    ("16", "differences between training and evaluation data", ("shift", "elsewhere"), True),
    ("17", "ethical approval", (), True),
    ("18a", "funding", (), True),
    ("18b", "conflicts of interest", (), True),
    ("18c", "study protocol", (), True),
    ("18d", "registration", (), True),
    ("18e", "availability of data", (), True),
    ("18f", "availability of code", ("provenance",), True),
    ("19", "involvement of patients and public", (), True),
    ("20a", "flow of participants", ("flow",), False),
    ("20b", "characteristics of participants", ("table 1",), True),
    ("20c", "training and evaluation data compared", ("shift",), False),
    ("21", "participants and events in each analysis", ("ranking", "table 1"), False),
    ("22", "full specification of the model", ("training", "provenance"), True),
    ("23a", "performance with intervals, subgroups too", ("network", "subgroups"), False),
    ("23b", "heterogeneity in performance", ("subgroups",), True),
    ("24", "results of model updating", ("calibration",), True),
    ("25", "interpretation, fairness among it", (), True),
    ("26", "limitations", (), True),
    ("27a", "input of poor quality or missing", (), True),
    ("27b", "interaction of users", (), True),
    ("27c", "next steps", (), True),
)
# How a report calls the section, and when it has it.
_SECTIONS = {
    "first page": "first page", "flow": "Flow of films", "table 1": "Table 1",
    "shift": "Shift between the splits", "network": "the network's section", "ranking": "Ranking",
    "decisions": "Decisions", "confusion": "confusion matrix", "calibration": "Calibration",
    "subgroups": "Subgroups", "errors": "Worst errors", "probe": "Probe",
    "elsewhere": "Beside the figures at home", "training": "Training", "provenance": "Provenance",
}


def present(report: Mapping[str, Any]) -> set[str]:
    """Which of the sections a report has."""
    found = {"first page", "network", "ranking", "decisions", "calibration"}
    for key, names in (("cohort", ("flow", "table 1", "shift")), ("made", ("provenance",)),
                       ("probe", ("probe",)), ("worst", ("errors",)),
                       ("elsewhere", ("elsewhere",))):
        found |= set(names) if report.get(key) else set()
    if report["run"].get("config"):
        found.add("training")
    networks = report["networks"].values()
    found |= {"subgroups"} if any(own.get("subgroups") for own in networks) else set()
    return found | ({"confusion"} if any("confusion" in own for own in networks) else set())


def filled(
    items: tuple[tuple[str, str, tuple[str, ...], bool], ...], there: set[str]
) -> Iterator[tuple[str, str, str]]:
    """(number, what is asked, where it is) of every item."""
    for number, asked, sections, more in items:
        named = [_SECTIONS[s] for s in sections if s in there]
        where = ", ".join(named) if named else AUTHORS
        if named and more:
            where += "; the rest " + AUTHORS
        yield number, asked, where


def lines(report: Mapping[str, Any]) -> list[str]:
    """Both checklists as Markdown, filled for a report."""
    there, out = present(report), []
    out += ["Our short words for each item; the guidelines say what it asks in full. Section names "
            f"are those of this report; '{AUTHORS}' is what no program knows."]
    for title, items in (("CLAIM 2024 (Tejani et al., Radiol Artif Intell 2024)", CLAIM),
                         ("TRIPOD+AI (Collins et al., BMJ 2024)", TRIPOD)):
        out += ["", f"### {title}", "", *table(["item", "asked", "where"],
                                               list(filled(items, there)))]
    return out
