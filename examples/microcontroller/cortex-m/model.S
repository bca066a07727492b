    /* The model's file as it is. 64: whole cache lines. */
    .section .model, "a"
    .balign 64
    .global model_bytes, model_end
model_bytes:
    .incbin MODEL
model_end:
