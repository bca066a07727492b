package edgekit.story

import android.app.Activity
import android.os.Bundle
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import edgekit.EdgekitException
import edgekit.Model
import edgekit.stream
import java.io.IOException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** A prompt, a button, and the text as it is generated. The button stops it, and leaving the screen does. */
class StoryActivity : Activity() {
    private val scope = MainScope()
    private var model: Model? = null
    private var writing: Job? = null

    private val prompt by lazy { EditText(this).apply { setText("Once upon a time") } }
    private val button by lazy { Button(this).apply { text = "Tell" } }
    private val story by lazy { TextView(this).apply { textSize = 18f } }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        button.setOnClickListener { if (writing?.isActive == true) writing?.cancel() else tell(prompt.text.toString()) }
        setContentView(
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                fitsSystemWindows = true
                setPadding(32, 32, 32, 32)
                addView(prompt)
                addView(button)
                addView(ScrollView(this@StoryActivity).apply { addView(story) })
            },
        )
    }

    private fun tell(start: String) {
        writing = scope.launch {
            button.text = "Stop"
            story.text = start
            try {
                val opened = model ?: withContext(Dispatchers.IO) { open() }.also { model = it }
                opened.stream(start).collect { story.append(it) }
            } catch (error: EdgekitException) {
                story.append("\n${error.message}")
            } catch (error: IOException) {
                story.append("\nassets/story.gguf is missing or compressed: ${error.message}")
            } finally {
                button.text = "Tell"
            }
        }
    }

    /** The asset as it is in the APK: nothing is copied. */
    private fun open(): Model =
        assets.openFd("story.gguf").use { Model.open(it.fileDescriptor, it.startOffset, it.length) }

    override fun onDestroy() {
        scope.cancel()
        model?.close()
        super.onDestroy()
    }
}
