#include "../sm90/combine.cu"
