# Writes commit.h: which source a simulator was built from. Run at every build; the file changes only
# when its content does.
execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE}
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
    set(commit "unknown")
endif()
execute_process(COMMAND git diff --quiet HEAD WORKING_DIRECTORY ${SOURCE}
    RESULT_VARIABLE dirty ERROR_QUIET)
if(NOT dirty EQUAL 0)
    set(dirty 1)
endif()
set(text "#define SIM_COMMIT \"${commit}\"\n#define SIM_DIRTY ${dirty}\n#define SIM_BUILD \"${BUILD}\"\n")
set(before "")
if(EXISTS ${OUT})
    file(READ ${OUT} before)
endif()
if(NOT before STREQUAL text)
    file(WRITE ${OUT} "${text}")
endif()
