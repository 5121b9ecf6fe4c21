// model_path.h: the model file that a name on a command line means.
#ifndef PA_MODEL_PATH_H
#define PA_MODEL_PATH_H

#include "host/base/base.h"

// What the programs' --help says of it.
#define PA_CHECKPOINT_NOTE                                                                                             \
    "CHECKPOINT: a run directory, a checkpoint, a model file, or the name of a model in\n"                             \
    "$PATRAIN_MODELS, in models/ of this build, or in share/patrain/models/ of this installation"

// `from` is a model.safetensors, a checkpoint directory or a run directory (its `best`, else `latest`, else the newest:
// a copy may have lost its links). A name without a slash that is neither file nor folder here is looked up in folders
// of models, where it means the same: $PATRAIN_MODELS; models/ beside the program (a build tree's links to the source
// tree's); share/patrain/models/ of an installation. PA_USAGE lists the models of these folders.
pa_status pa_model_path(const char *from, char *path, size_t size, pa_err *err);

#endif
