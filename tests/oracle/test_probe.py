import numpy as np
import torch
from transformers import DynamicCache


class Rounded(DynamicCache):
    def update(self, k, v, *a, **kw):
        return super().update(k.bfloat16().float(), v.bfloat16().float(), *a, **kw)


def test_it(case, tiny, native, error):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        t = tiny(case, dtype)
        p = t.prompt(150)
        with torch.no_grad():
            e = t.oracle(torch.tensor([p]), past_key_values=Rounded(), use_cache=True).logits[0].numpy()
        n = native(t.files, cache="bf16")
        w = n.logits(p)
        d = np.abs(w - e).max(1)
        print(case, dtype, error(w, e), np.median(d) / np.ptp(e))
