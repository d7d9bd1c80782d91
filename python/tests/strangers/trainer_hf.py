"""The Trainer of Hugging Face on a module of one's own: HfArgumentParser,
accumulation, a schedule with warm-up, metrics of one's own."""
from dataclasses import dataclass

import torch
import transformers
from transformers import HfArgumentParser, Trainer, TrainingArguments


@dataclass
class Mine:
    width: int = 16


said = "--output_dir out --width 24 --num_train_epochs 2 --gradient_accumulation_steps 2 --eval_strategy epoch --logging_steps 5 --report_to none --save_strategy no --use_cpu true"
mine, args = HfArgumentParser((Mine, TrainingArguments)).parse_args_into_dataclasses((said + " --disable_tqdm true --lr_scheduler_type cosine --warmup_steps 2").split())


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, mine.width), torch.nn.Tanh(), torch.nn.Linear(mine.width, 2))

    def forward(self, x=None, labels=None):
        logits = self.layers(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Points(torch.utils.data.Dataset):
    def __init__(self, n, seed):
        self.x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": (self.x[i].sum() > 0).long()}


transformers.set_seed(0)
trainer = Trainer(Net(), args, train_dataset=Points(240, 1), eval_dataset=Points(80, 2), compute_metrics=lambda e: {"accuracy": float((e.predictions.argmax(-1) == e.label_ids).mean())})
trainer.train()
result = trainer.evaluate()
print("came to %.4f, %.5f" % (result["eval_accuracy"], result["eval_loss"]))
