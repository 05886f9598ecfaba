"""From the arguments of `spawn` to a commit. It knows nothing of how jobs are claimed and sent.

- `arguments` checks everything before anything is stored, and makes a job of each request.
- `group_commit` stores the jobs of all callers that ask at the same time with one INSERT and one commit.
- `announcer` says which channels other processes are told of with that commit, and which a moment later.
"""
