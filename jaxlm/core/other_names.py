"""The names that other tools have for settings, for the advice of an error.

    OTHER_NAMES["num_train_epochs"] == "train.epochs"
    OTHER_TYPES["neftune"] == "train.embedding_noise"

Tools: transformers' Trainer, PEFT, TRL, axolotl, LLaMA-Factory, nanoGPT and gensim.
docs/coming-from.md has the most frequent ones side by side.
"""

from __future__ import annotations

OTHER_NAMES: dict[str, str] = {
    "base_model": "init.from",
    "model_name_or_path": "init.from",
    "output_dir": "run_dir",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "max_iters": "train.steps",
    "max_steps": "train.steps",
    "micro_batch_size": "train.batch_size",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "neftune_noise_alpha": "train.embedding_noise",
    "per_device_eval_batch_size": "eval.batch_size",
    "eval_steps": "eval.every_steps",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep_last",
    "logging_steps": "logging.every_steps",
    "learning_rate": "optimizer.learning_rate",
    "lr": "optimizer.learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.clip_norm",
    "lr_scheduler": "optimizer.schedule.type",
    "lr_scheduler_type": "optimizer.schedule.type",
    "warmup_ratio": "optimizer.schedule.warmup",
    "warmup_steps": "optimizer.schedule.warmup",
    "block_size": "data.seq_len",
    "cutoff_len": "data.seq_len",
    "max_length": "data.seq_len",
    "max_seq_length": "data.seq_len",
    "sequence_len": "data.seq_len",
    "sample_packing": "data.packing",
    "gradient_checkpointing": "model.remat",
    "d_model": "model.hidden_size",
    "n_embd": "model.hidden_size",
    "vector_size": "model.hidden_size",
    "n_layer": "model.num_layers",
    "num_hidden_layers": "model.num_layers",
    "n_head": "model.attention.num_heads",
    "num_attention_heads": "model.attention.num_heads",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "r": "adapter.rank",
    "lora_target": "adapter.targets",
    "lora_target_modules": "adapter.targets",
    "target_modules": "adapter.targets",
}

# What has a `type:` elsewhere, or seems to need one, and is a key here.
OTHER_TYPES: dict[str, str] = {
    "neftune": "train.embedding_noise",
    "noisy_embeddings": "train.embedding_noise",
    "embedding_noise": "train.embedding_noise",
    "qlora": "adapter.base_weights",
    "rslora": "adapter.rslora",
}
