package edgekit

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn

/**
 * The pieces of a text as they are generated. A collector that is cancelled ends the text. This file alone needs
 * kotlinx-coroutines; [Model.start] is the same without.
 */
fun Model.stream(
    prompt: String,
    settings: Settings = Settings(),
    dispatcher: CoroutineDispatcher = Dispatchers.Default,
): Flow<String> = flow { start(prompt, settings).use { for (piece in it) emit(piece) } }.flowOn(dispatcher)
