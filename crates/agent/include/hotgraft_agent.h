/* hotgraft_agent.dll: a service patches itself and asks for its patch state.
 *
 * A process cannot stop its own threads safely, because the code that goes on may need a lock that a stopped thread
 * holds. So applying and rolling back are done by hotgraft.exe, started for this one purpose, which must lie beside
 * hotgraft_agent.dll; signature, policy and audit record are its own. Queries are made in this process and read memory
 * alone.
 *
 * All text is UTF-8 with a final zero. Functions may be called by any thread, and not from DllMain. */
#ifndef HOTGRAFT_AGENT_H
#define HOTGRAFT_AGENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Answers. */
#define HOTGRAFT_OK 0
#define HOTGRAFT_FAILED 2    /* could not be done; nothing was changed */
#define HOTGRAFT_REFUSED 3   /* the policy, or the state of the process, speaks against it; nothing was changed */
#define HOTGRAFT_ARGUMENT 10 /* an argument is null or no UTF-8 */
#define HOTGRAFT_SIZE 11     /* the buffer is too small; *size says what is needed */

/* The version of this interface: 1. */
uint32_t hotgraft_agent_version(void);

/* The patch state of this process, as read from memory: the field `images` of docs/schemas/status.json.
 * On entry *size is the size of `json` in bytes, on return what was or would be written, the zero included. */
int32_t hotgraft_agent_query(char *json, size_t *size);

/* The sequence that is active on a loaded image of this process; 0 if none is. */
int32_t hotgraft_agent_active(const char *image, uint32_t *sequence);

/* Apply a patch. `policy` is a trust policy file. `message` (may be null) receives what hotgraft.exe said, cut off at
 * `size` bytes. Returns once the patch is active, or not. */
int32_t hotgraft_agent_apply(const char *patch, const char *policy, char *message, size_t size);

/* Roll back: the patch, or (null) whatever is active. */
int32_t hotgraft_agent_rollback(const char *patch, char *message, size_t size);

#ifdef __cplusplus
}
#endif
#endif
