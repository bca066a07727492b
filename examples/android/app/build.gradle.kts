plugins {
    id("com.android.application") version "8.7.3"
    id("org.jetbrains.kotlin.android") version "2.1.20" // the AAR needs 2.1 or newer
}

android {
    namespace = "edgekit.story"
    compileSdk = 35
    defaultConfig {
        applicationId = "edgekit.story"
        minSdk = 21
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") } // those of the AAR; it takes no NDK
    }
    androidResources { noCompress += "gguf" } // the engine reads it where it is in the APK
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    implementation(fileTree("libs") { include("*.aar") })
    implementation("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2")
}
