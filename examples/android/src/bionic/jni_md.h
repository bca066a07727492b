/* What jni.h of a JDK leaves to the system, as in Android's jni.h for 64 bits. */
#define JNIEXPORT __attribute__((visibility("default")))
#define JNIIMPORT
#define JNICALL
typedef int jint;
typedef long jlong;
typedef signed char jbyte;
