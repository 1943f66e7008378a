"""Everyday sentences that teach a tokenizer its letters, digits and common words."""

import string
from collections.abc import Iterator

ZH_EVERYDAY = (
    "今天天气很好，我们一起去公园散步吧。",
    "他每天早上七点起床，然后坐公共汽车去上班。",
    "妈妈在厨房里做饭，爸爸在看报纸。",
    "这本书很有意思，我已经读了三遍。",
    "请问去火车站怎么走？先往前走，再向右转。",
    "中国的首都是北京，上海是一个很大的城市。",
    "我喜欢吃苹果、香蕉、葡萄和西瓜。",
    "老师在黑板上写字，学生们认真地听课。",
    "冬天会下雪，夏天常常下雨，春天和秋天最舒服。",
    "猫在沙发上睡觉，狗在门口等主人回家。",
    "一年有十二个月，一个星期有七天。",
    "如果明天不下雨，我们就去爬山。",
    "她会说汉语和英语，还想学习法语。",
    "医生说他的身体很健康，不用担心。",
    "孩子们在操场上踢足球，玩得非常高兴。",
    "因为时间不够，所以我们只看了前面的部分。",
    "电脑和手机让人们的生活更加方便。",
    "那条河又长又宽，河边种着许多花。",
    "商店九点开门，晚上十点关门。",
    "把桌子上的杯子拿给我，谢谢。",
    "模型先看图片，然后用文字回答问题。",
    "这个问题很简单，答案只有一句话。",
    "飞机飞得很高，从窗户可以看到地面。",
    "祝你生日快乐，万事如意！",
    "我们用机器学习的方法训练神经网络。",
    "左边是银行，右边是邮局，中间是一条马路。",
    "零一二三四五六七八九十百千万亿。",
    "东西南北，上下左右，前后里外，大小多少，高低长短。",
    "衣服、裤子、鞋子和帽子都已经洗干净了。",
    "对不起，我不知道；没关系，慢慢来。",
    "球、方块、三角形、星星、爱心、圆环、十字、月牙、房子、小汽车、树和鱼。",
    "圆形、正方形、五角星、心形、圆圈、加号、月亮、屋子、汽车，都是画里的东西。",
    "，。！？；：、“”‘’（）《》——……",
)
EN_EVERYDAY = (
    "The weather is nice today, so let us go for a walk in the park.",
    "He gets up at seven every morning and takes the bus to work.",
    "My mother is cooking in the kitchen while my father reads the newspaper.",
    "This book is very interesting; I have read it three times.",
    "How do I get to the station? Go straight on and then turn right.",
    "She speaks Chinese and English and would like to learn French.",
    "The children are playing football and having a lot of fun.",
    "A year has twelve months, and a week has seven days.",
    "If it does not rain tomorrow, we will climb the hill.",
    "The cat sleeps on the sofa and the dog waits at the door.",
    "Because there was little time, we only looked at the first part.",
    "Computers and phones have made many things easier.",
    "The shop opens at nine and closes at ten in the evening.",
    "Could you give me the cup on the table, please?",
    "I would rather have tea than coffee, but either is fine.",
    "The model looks at the picture and answers with words.",
    "This question is simple; the answer is only one sentence.",
    "We train a neural network with the methods of machine learning.",
    "The quick answer was wrong, and the slow one was just right.",
    "Zoe packed five dozen jugs of liquid wax for the queen's voyage.",
    "Happy birthday, and all the best for the next year!",
    "Where were you yesterday? I was at home with my friends.",
    "They have been working here for more than ten years.",
    "What, who, when, where, why, which and how are question words.",
    "Balls, boxes, triangles, stars, hearts, rings, crosses, moons, houses, cars, trees and fish.",
    "Circles and squares, discs and cubes, crescents and hoops, cottages and vehicles are shapes in a drawing.",
    "Above, below, inside, outside, between, behind, near and far.",
    "I'm sorry, I don't know. It's all right, you can't know everything.",
)


def everyday_texts() -> Iterator[str]:
    """Every letter, digit and mark, the words of the chat prompt, and common sentences in both languages."""
    yield from (" ".join(letters) for letters in (string.ascii_lowercase, string.ascii_uppercase, string.digits))
    yield from (string.ascii_letters, string.digits, " ".join(string.punctuation))
    yield from ("问：", "答：", "Q:", "A:", "[Round 0]", "[Round 1]")
    yield from ZH_EVERYDAY
    yield from EN_EVERYDAY
