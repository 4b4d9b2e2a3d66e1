"""The licences of the models in the catalogue, in words: a summary to choose by, not legal advice."""

from sampan.core.types import Licence

_QWEN = "https://huggingface.co/Qwen"
_R1 = "Use, change, sell and distil into other models; DeepSeek adds MIT terms for its own part."

LICENCES: dict[str, Licence] = {
    "apache-2.0": Licence(
        name="Apache-2.0",
        commercial_use=True,
        allows="Use, change, sell and train other models, with a patent grant.",
        asks="Keep the licence and the notices with copies, and say what you changed.",
        url="https://www.apache.org/licenses/LICENSE-2.0",
    ),
    "mit": Licence(
        name="MIT",
        commercial_use=True,
        allows="Use, change, sell and distil into other models.",
        asks="Keep the copyright notice and the licence with copies.",
        url="https://opensource.org/license/mit",
    ),
    "mit+apache-2.0": Licence(
        name="MIT, over an Apache-2.0 base (Qwen2.5)",
        commercial_use=True,
        allows=_R1,
        asks="Keep both licences and their notices with copies, and say what you changed.",
        url="https://github.com/deepseek-ai/DeepSeek-R1#7-license",
    ),
    "mit+llama3.1": Licence(
        name="MIT, over a Llama 3.1 base (Llama 3.1 Community Licence)",
        commercial_use=True,
        allows=_R1,
        asks="The Llama 3.1 terms of the base: more than 700 million monthly users need Meta's grant, "
        "say 'Built with Llama', name models trained on outputs 'Llama …', follow the acceptable use policy.",
        url="https://www.llama.com/llama3_1/license/",
    ),
    "mit+llama3.3": Licence(
        name="MIT, over a Llama 3.3 base (Llama 3.3 Community Licence)",
        commercial_use=True,
        allows=_R1,
        asks="The Llama 3.3 terms of the base: more than 700 million monthly users need Meta's grant, "
        "say 'Built with Llama', name models trained on outputs 'Llama …', follow the acceptable use policy.",
        url="https://www.llama.com/llama3_3/license/",
    ),
    "llama3.1": Licence(
        name="Llama 3.1 Community Licence",
        commercial_use=True,
        allows="Use, change, sell and train other models on outputs.",
        asks="More than 700 million monthly users need Meta's grant; say 'Built with Llama'; name models "
        "trained on outputs 'Llama …'; follow the acceptable use policy; accept them before downloading.",
        url="https://www.llama.com/llama3_1/license/",
    ),
    "qwen": Licence(
        name="Qwen Licence",
        commercial_use=True,
        allows="Use, change and sell, below 100 million monthly users.",
        asks="Ask for a grant above 100 million monthly users; say 'Built with Qwen' or 'Improved using "
        "Qwen' when outputs train a model that you release; keep the notices.",
        url=f"{_QWEN}/Qwen2.5-72B-Instruct/blob/main/LICENSE",
    ),
    "qwen-research": Licence(
        name="Qwen Research Licence",
        commercial_use=False,
        allows="Research and evaluation only.",
        asks="No commercial use without a separate licence; say 'Built with Qwen' or 'Improved using "
        "Qwen' when outputs train a model that you release; keep the notices.",
        url=f"{_QWEN}/Qwen2.5-3B-Instruct/blob/main/LICENSE",
    ),
    "deepseek": Licence(
        name="DeepSeek Licence v1.0 (weights; the code is MIT)",
        commercial_use=True,
        allows="Use, change, sell and distil into other models.",
        asks="Pass the use restrictions on (no military use, no harm, no exploiting of minors …) "
        "and keep the licence with copies.",
        url="https://github.com/deepseek-ai/DeepSeek-V3/blob/main/LICENSE-MODEL",
    ),
}
