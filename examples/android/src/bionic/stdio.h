/* Empty: jni.h of a JDK includes it and uses nothing of it. */
