/* Everything genarm_kernels.native calls. Built once with -DBFLOAT16 and once without, for tensors of either dtype. */

#include "decoder.h"
#include "sampling.h"
